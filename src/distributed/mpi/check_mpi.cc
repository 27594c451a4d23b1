// Every operation of the communicator among the processes that mpirun has started, which must be as many as the argument says.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "distributed/connect.h"
#include "distributed/testing/check_communicator.h"

int main(int argc, char** argv) {
  const auto communicator = qnext::connect();
  try {
    const int expected = argc > 1 ? std::atoi(argv[1]) : 1;
    if (communicator->size() != expected) throw qnext::Error(fmt::format("expected {} ranks, found {}", expected, communicator->size()));
    qnext::testing::check_communicator(*communicator);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    communicator->abort();
    return 1;
  }
  return 0;
}
