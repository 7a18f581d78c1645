"""Training. The only room that knows Lightning: import `uncollapse.training.loop` where training
starts, not before."""
