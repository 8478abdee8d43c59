"""What a run does, known before it: which bytes of files it reads, and by how many requests those from elsewhere come.

In comes a plan, out go numbers; nothing is opened. Uses what decides in the engine how copies are run.
May use: base, algebra, storage, planning, running.
"""
