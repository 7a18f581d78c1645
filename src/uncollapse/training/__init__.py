"""Training. The only room that knows Lightning: import `uncollapse.training.engine` where training starts, not before."""
