"""Rules on checkpoints of several processes: shards and replicas."""
