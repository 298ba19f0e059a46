"""The web page of speechnar: widgets over its public API, one module a tab; nothing loads at import."""
