"""Runs side by side: what tells them apart, and whether the best of them is better than chance."""
