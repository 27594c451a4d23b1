#include "distributed/connect.h"

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace qnext {

namespace {

/// Of one message: MPI counts in int.
constexpr size_t kMostValues = size_t{1} << 28;

template <typename F>
void in_pieces(std::span<float> values, F&& f) {
  for (size_t i = 0; i < values.size(); i += kMostValues) {
    const auto piece = values.subspan(i, std::min(kMostValues, values.size() - i));
    f(piece.data(), static_cast<int>(piece.size()));
  }
}

/// Errors of MPI itself (a lost connection) end all processes: its default error handler.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    find_cpu_share();
  }
  ~MpiCommunicator() override { MPI_Finalize(); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void sum(std::span<double> values) override { sum_in_order(values, MPI_DOUBLE); }
  void sum(std::span<int64_t> values) override { sum_in_order(values, MPI_INT64_T); }

  void begin_reduce(std::span<float> values, int owner) override {
    in_pieces(values, [&](float* data, int count) {
      MPI_Request& request = requests_.emplace_back();
      const bool ours = rank_ == owner;
      MPI_Ireduce(ours ? MPI_IN_PLACE : data, ours ? data : nullptr, count, MPI_FLOAT, MPI_SUM, owner, MPI_COMM_WORLD, &request);
    });
    // What has begun advances only inside calls of MPI.
    int done = 0;
    MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
    if (done != 0) requests_.clear();
  }
  void finish() override {
    MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
    requests_.clear();
  }
  void broadcast(std::span<float> values, int owner) override {
    in_pieces(values, [&](float* data, int count) { MPI_Bcast(data, count, MPI_FLOAT, owner, MPI_COMM_WORLD); });
  }
  void transfer(std::span<float> values, int from, int to) override {
    in_pieces(values, [&](float* data, int count) {
      if (rank_ == from) MPI_Send(data, count, MPI_FLOAT, to, 0, MPI_COMM_WORLD);
      if (rank_ == to) MPI_Recv(data, count, MPI_FLOAT, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    });
  }
  void all_to_all(std::span<const float> send, std::span<const int64_t> send_rows, std::span<float> receive,
                  std::span<const int64_t> receive_rows, int64_t width) override {
    exchange(send.data(), send_rows, receive.data(), receive_rows, width, MPI_FLOAT);
  }
  void all_to_all(std::span<const int32_t> send, std::span<const int64_t> send_rows, std::span<int32_t> receive,
                  std::span<const int64_t> receive_rows, int64_t width) override {
    exchange(send.data(), send_rows, receive.data(), receive_rows, width, MPI_INT32_T);
  }
  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }
  void abort() noexcept override {
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }
  CpuShare cpu_share() const override { return share_; }

 private:
  /// MPI_Allreduce leaves the order open.
  template <typename T>
  void sum_in_order(std::span<T> values, MPI_Datatype type) {
    const auto count = static_cast<int>(values.size());
    std::vector<T> all(rank_ == 0 ? values.size() * static_cast<size_t>(size_) : 0);
    MPI_Gather(values.data(), count, type, all.data(), count, type, 0, MPI_COMM_WORLD);
    if (rank_ == 0) {
      for (size_t i = 0; i < values.size(); ++i) {
        T total{};
        for (size_t r = 0; r < static_cast<size_t>(size_); ++r) total += all[r * values.size() + i];
        values[i] = total;
      }
    }
    MPI_Bcast(values.data(), count, type, 0, MPI_COMM_WORLD);
  }

  /// MPI counts in int: in rows, of which there are few, not in values.
  void exchange(const void* send, std::span<const int64_t> send_rows, void* receive, std::span<const int64_t> receive_rows,
                int64_t width, MPI_Datatype type) {
    struct Places {
      std::vector<int> counts, offsets;
      explicit Places(std::span<const int64_t> rows) {
        int64_t total = 0;
        for (const int64_t count : rows) {
          counts.push_back(static_cast<int>(count));
          offsets.push_back(static_cast<int>(total));
          total += count;
        }
        if (total > INT_MAX) throw Error(fmt::format("an exchange of {} rows, more than MPI can count", total));
      }
    };
    QNEXT_CHECK(width <= INT_MAX && send_rows.size() == static_cast<size_t>(size_) && receive_rows.size() == send_rows.size());
    const Places from(send_rows), to(receive_rows);
    MPI_Datatype row;
    MPI_Type_contiguous(static_cast<int>(width), type, &row);
    MPI_Type_commit(&row);
    MPI_Alltoallv(send, from.counts.data(), from.offsets.data(), row, receive, to.counts.data(), to.offsets.data(), row, MPI_COMM_WORLD);
    MPI_Type_free(&row);
  }

  void find_cpu_share() {
    MPI_Comm machine;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine);
    int index = 0, count = 0;
    MPI_Comm_rank(machine, &index);
    MPI_Comm_size(machine, &count);
    cpu_set_t ours;
    CPU_ZERO(&ours);
    sched_getaffinity(0, sizeof ours, &ours);
    std::vector<cpu_set_t> all(static_cast<size_t>(count));
    MPI_Allgather(&ours, sizeof ours, MPI_BYTE, all.data(), sizeof ours, MPI_BYTE, machine);
    MPI_Comm_free(&machine);
    share_ = {0, 0};
    for (int i = 0; i < count; ++i) {
      if (!CPU_EQUAL(&ours, &all[static_cast<size_t>(i)])) continue;
      if (i < index) ++share_.index;
      ++share_.count;
    }
  }

  int rank_ = 0, size_ = 1;
  CpuShare share_;
  std::vector<MPI_Request> requests_;
};

}  // namespace

std::unique_ptr<Communicator> connect() {
  if (!started_by_mpi()) return std::make_unique<SingleProcess>();
  return std::make_unique<MpiCommunicator>();
}

}  // namespace qnext
