"""One run on several processes that torchrun starts: communication, and a watchdog."""
