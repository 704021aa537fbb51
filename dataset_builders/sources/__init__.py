"""One module or package per publisher's format, with `NAME`, `VERSION`, what its card says, and `records(...)`."""
