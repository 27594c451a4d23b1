#include "distributed/connect.h"

#include "base/error.h"

namespace qnext {

std::unique_ptr<Communicator> connect() {
  if (started_by_mpi()) {
    throw Error("started by mpirun, but built without MPI: install libopenmpi-dev and openmpi-bin, run cmake --fresh, and build again");
  }
  return std::make_unique<SingleProcess>();
}

}  // namespace qnext
