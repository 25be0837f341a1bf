"""One node of an AI network: questions are routed, metered, paid in FTNS and answered with a receipt."""

__version__ = "0.1.0"
