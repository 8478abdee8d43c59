"""What can be told and kept of a model before there is a plan; nothing here runs what plans are made of.

Comes in: an `nn.Module`. Goes out: its tensors, if they are told easily; what it was loaded through.
May use: storage, planning.
"""
