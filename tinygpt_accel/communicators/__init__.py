"""Communicators for runs of several processes: `mpi` (mpi4py, on Open MPI, MPICH and their kin) and `nccl`
(CuPy, between GPUs); `sentinel` watches over the processes of a machine.

The training loop knows only `tinygpt_core.training.communicator.Communicator`, which these implement.
"""
