"""Alerts of the node itself: their states, whom they are told, and what people did about them."""
