"""Layouts as strided copies: which element of which source stands where, counted, cut, fused, and turned round.

Comes in: shapes, strides and intervals. Goes out: a `Layout` whose copies touch each element exactly once.
May use: base.
"""
