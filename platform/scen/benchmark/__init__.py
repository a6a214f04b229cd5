"""The platform beside what people would use instead: same base, same edits, same scorer."""
