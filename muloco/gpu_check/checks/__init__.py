"""The functions that check the rows, one file a part. Each gets a `Bench`, returns what it has measured by name, and
raises `CheckFailed` if something is wrong."""
