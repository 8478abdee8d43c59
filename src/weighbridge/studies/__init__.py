"""Look at checkpoints: whether two are the same, how they differ, what one is, how it became another.

Comes in: opened checkpoints, mappings and plans. Goes out: findings as values, which print themselves.
May use: base to models.
"""
