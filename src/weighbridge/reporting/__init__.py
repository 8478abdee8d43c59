"""Say what a plan does: the report, the explanation of a key, diagrams of copies, the page.

Comes in: a plan. Goes out: text, plain JSON, and HTML.
May use: base, algebra, mappings, planning.
"""
