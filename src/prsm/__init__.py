"""One node of an AI network: questions are routed, metered, paid in FTNS and answered with a receipt."""

import os

__version__ = "0.1.0"

# onnxruntime's own builds send to Microsoft what they load, under an id that they keep in the user's home, unless this
# is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
