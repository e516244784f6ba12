"""The base of all other packages: no sockets, no SQL, no HTTP."""
