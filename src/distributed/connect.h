#pragma once
#include <memory>

#include "distributed/communicator.h"

namespace qnext {

/// The processes that mpirun started with this one, or this one alone. Called once. Throws Error when there are others and the
/// program was built without MPI. The library qnext_mpi: mpi/, or no_mpi/ where CMake finds none.
std::unique_ptr<Communicator> connect();

/// Whether the environment is that of a process which mpirun (OpenMPI, MPICH) or srun with PMIx has started.
bool started_by_mpi();

}  // namespace qnext
