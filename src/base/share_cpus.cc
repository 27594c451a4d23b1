#include "base/share_cpus.h"

#include <sched.h>

#include <vector>

#include "base/error.h"

namespace qnext {

void share_cpus(int index, int count) {
  QNEXT_CHECK(index >= 0 && index < count, "{} of {}", index, count);
  cpu_set_t all;
  CPU_ZERO(&all);
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &all)) cpus.push_back(cpu);
  }
  const auto n = static_cast<int>(cpus.size());
  int first = n * index / count, last = n * (index + 1) / count;
  if (first == last) last = (first = index % n) + 1;
  cpu_set_t share;
  CPU_ZERO(&share);
  for (int i = first; i < last; ++i) CPU_SET(cpus[static_cast<size_t>(i)], &share);
  sched_setaffinity(0, sizeof share, &share);  // refused: all stay allowed
}

}  // namespace qnext
