"""Quantised weights in a plan: rules see one tensor for each, and what they do to it is divided among its group.

In come the headers and what is said of their quantisation, out go headers in which a weight is one tensor, and the plan
that was made with them, written out for every tensor of a group. Uses the algebra, the schemes, and programs and steps.
"""
