"""The architectures, a folder or file each. Every one holds its record as `ARCHITECTURE`; being here registers it."""
