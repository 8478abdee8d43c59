"""One process's portion of a plan: its steps cut to the parts of tensors that are held, written or read there.

In come a plan and parts of its tensors, out goes a plan for these parts. Which parts a process holds is told elsewhere.
Uses the algebra, and programs and steps.
"""
