"""Load a file that is what the model holds already, tensor for tensor: no plan has to be made before it runs.

Comes in: a class of transformers and a directory. Goes out: its model; or nothing, and all goes the way through a plan.
May use: base to integrations.
"""
