//! Media from folders, tables and archives, to the shards that training reads.
