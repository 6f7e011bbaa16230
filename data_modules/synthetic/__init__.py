"""The embedded datasets: a scene generator that knows the truth, and writers of real layouts."""
