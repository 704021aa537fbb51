"""Tables and plots of what a run measured."""
