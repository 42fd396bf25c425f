"""See the module `multiprocessing` below."""
