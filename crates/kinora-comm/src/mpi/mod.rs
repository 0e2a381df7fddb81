//! Ranks as processes that MPI starts and connects.
