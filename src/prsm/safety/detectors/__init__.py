"""What looks at texts: rules, patterns with checksums, and two learnt readers over the one shared encoder."""
