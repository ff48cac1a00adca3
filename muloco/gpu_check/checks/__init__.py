"""The functions that check the rows, one file for each part. Each one gets a `Bench`, returns its measurements by name,
and raises `CheckFailed` if something is wrong, or `NotHere` if the machine lacks something."""
