"""Operations with declared values: what comes from no tensor, and what goes to none.

Comes in: lanes of values. Goes out: lanes with constants among them, or without what must hold a declared value.
May use: base, algebra, operations.
"""
