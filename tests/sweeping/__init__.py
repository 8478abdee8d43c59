"""Every class of the installed transformers library, held to what weighbridge promises: `make sweep`.

In come the names of classes; out go a line of JSON each, totals, and a page of the documentation. The modules use the
public functions of weighbridge, and what stands behind them where only headers are at hand.
"""
