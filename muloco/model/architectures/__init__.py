"""The architectures. A folder or file holds the record of one as `ARCHITECTURE`, or those of several as
`ARCHITECTURES`. All in this folder are registered."""
