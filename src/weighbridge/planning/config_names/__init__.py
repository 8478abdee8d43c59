"""Names of modules in configurations: evaluated over the modules of a plan's source, and said of those of its target.

In come a plan and the texts of configurations, out go the texts that say the same of the new names, and what changed.
Uses the dialects of the schemes, and plans.
"""
