"""Promotion: from a trial on the front to a registered, aliased model version, gate by gate, and back."""
