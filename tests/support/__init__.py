"""What the tests share: a real broker, a daemon in the process or beside it, and a clock that is moved by hand."""
