"""What the values of two checkpoints say: which tensors, or parts of them, have the same elements.

Comes in: two opened checkpoints. Goes out: facts, such as that one tensor is another one transposed, and
what else would have given the same values.
May use: what studies may use, and `studies.inference.tensor_facts` and `likeness`.
"""
