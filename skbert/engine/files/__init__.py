"""Models and tokenizers on disk <-> modules in memory. Nothing here is unpickled or executed."""
