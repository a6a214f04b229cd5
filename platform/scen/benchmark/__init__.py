"""Compare editing methods side by side: same base, same edits, same scorer."""
