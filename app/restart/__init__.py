"""Starting clean: what a broken agent left goes, or moves aside, before training begins."""
