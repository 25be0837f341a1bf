"""The audit log: every change of the node's state, in a Merkle tree whose signed roots others keep."""
