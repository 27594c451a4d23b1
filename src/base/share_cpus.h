#pragma once

namespace qnext {

/// Leaves this process, number `index` of `count` that may run on the same CPUs, its share of them: at least one. Before anyone
/// asks for allowed_cpus().
void share_cpus(int index, int count);

}  // namespace qnext
