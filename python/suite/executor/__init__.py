"""Where work runs: on this machine's processes. The same functions, the same bytes, whoever runs them."""
