"""Adaptation state that outlives a stream. Reading order: entry, memory, disk, cloud, residents, keeper, kept, verbs, rpcs."""
