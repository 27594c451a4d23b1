#pragma once
#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"
#include "distributed/communicator.h"

namespace qnext::testing {

/// Ranks that are threads of one process, for tests. All sums are in the order of ranks.
class Ranks {
 public:
  explicit Ranks(int size) : size_(size), posted_(static_cast<size_t>(size)), letters_(static_cast<size_t>(size)) {}

  /// f(communicator) on every rank. Throws what the first rank to fail has thrown.
  void run(const std::function<void(Communicator&)>& f) {
    std::exception_ptr first;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([&, rank] {
        Rank communicator(*this, rank);
        try {
          f(communicator);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          if (!failed_) first = std::current_exception();
          failed_ = true;
          changed_.notify_all();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
  }

 private:
  struct Letter {
    const float* values = nullptr;
    int to = -1;
  };
  class Rank final : public Communicator {
   public:
    Rank(Ranks& ranks, int rank) : ranks_(ranks), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return ranks_.size_; }
    void sum(std::span<double> values) override { sum_at(values, -1); }
    void sum(std::span<int64_t> values) override { sum_at(values, -1); }
    void begin_reduce(std::span<float> values, int owner) override { begun_.push_back({values, owner}); }
    /// Here and not before, so that whoever reads a gradient too early reads the wrong one.
    void finish() override {
      for (const auto& [values, owner] : begun_) sum_at(values, owner);
      begun_.clear();
    }
    void broadcast(std::span<float> values, int owner) override {
      post(values.data());
      if (rank_ != owner) std::copy_n(static_cast<const float*>(ranks_.posted_[static_cast<size_t>(owner)]), values.size(), values.data());
      barrier();
    }
    void transfer(std::span<float> values, int from, int to) override {
      QNEXT_CHECK(from != to);
      if (rank_ != from && rank_ != to) return;
      std::unique_lock lock(ranks_.mutex_);
      Letter& letter = ranks_.letters_[static_cast<size_t>(from)];
      if (rank_ == from) {
        letter = {values.data(), to};
        ranks_.changed_.notify_all();
        ranks_.wait(lock, [&] { return letter.values == nullptr; });
      } else {
        ranks_.wait(lock, [&] { return letter.values != nullptr && letter.to == to; });
        std::copy_n(letter.values, values.size(), values.data());
        letter.values = nullptr;
        ranks_.changed_.notify_all();
      }
    }
    void all_to_all(std::span<const float> send, std::span<const int64_t> send_rows, std::span<float> receive,
                    std::span<const int64_t> receive_rows, int64_t width) override {
      exchange(send, send_rows, receive, receive_rows, width);
    }
    void all_to_all(std::span<const int32_t> send, std::span<const int64_t> send_rows, std::span<int32_t> receive,
                    std::span<const int64_t> receive_rows, int64_t width) override {
      exchange(send, send_rows, receive, receive_rows, width);
    }
    void barrier() override {
      std::unique_lock lock(ranks_.mutex_);
      const int64_t round = ranks_.round_;
      if (++ranks_.arrived_ == ranks_.size_) {
        ranks_.arrived_ = 0;
        ++ranks_.round_;
        ranks_.changed_.notify_all();
      }
      ranks_.wait(lock, [&] { return ranks_.round_ != round; });
    }
    void abort() noexcept override {
      const std::lock_guard lock(ranks_.mutex_);
      ranks_.failed_ = true;
      ranks_.changed_.notify_all();
    }

   private:
    void post(const void* values) {
      ranks_.posted_[static_cast<size_t>(rank_)] = values;
      barrier();
    }
    /// What a rank holds ready for the others.
    template <typename T>
    struct Parcels {
      std::span<const T> values;
      std::span<const int64_t> rows;
      int64_t width;
    };
    template <typename T>
    void exchange(std::span<const T> send, std::span<const int64_t> send_rows, std::span<T> receive,
                  std::span<const int64_t> receive_rows, int64_t width) {
      const auto total = [&](std::span<const int64_t> rows) { return static_cast<size_t>(width * std::reduce(rows.begin(), rows.end())); };
      QNEXT_CHECK(send.size() == total(send_rows) && receive.size() == total(receive_rows), "{} and {} values, {} and {} said",
                  send.size(), receive.size(), total(send_rows), total(receive_rows));
      const Parcels<T> ours{send, send_rows, width};
      post(&ours);
      auto to = receive.begin();
      for (size_t from = 0; from < ranks_.posted_.size(); ++from) {
        const auto& theirs = *static_cast<const Parcels<T>*>(ranks_.posted_[from]);
        const auto rank = static_cast<size_t>(rank_);
        QNEXT_CHECK(theirs.width == width && theirs.rows[rank] == receive_rows[from], "rank {} sends {} rows of {}, rank {} expects {} of {}",
                    from, theirs.rows[rank], theirs.width, rank_, receive_rows[from], width);
        to = std::ranges::copy(theirs.values.subspan(total(theirs.rows.first(rank)), total(theirs.rows.subspan(rank, 1))), to).out;
      }
      barrier();
    }
    /// owner -1: at all.
    template <typename T>
    void sum_at(std::span<T> values, int owner) {
      post(values.data());
      std::vector<T> total(values.size());
      if (owner < 0 || owner == rank_) {
        for (const void* from : ranks_.posted_) {
          for (size_t i = 0; i < total.size(); ++i) total[i] += static_cast<const T*>(from)[i];
        }
      }
      barrier();
      if (owner < 0 || owner == rank_) std::ranges::copy(total, values.begin());
      barrier();
    }

    Ranks& ranks_;
    int rank_;
    struct Begun {
      std::span<float> values;
      int owner;
    };
    std::vector<Begun> begun_;
  };

  template <typename F>
  void wait(std::unique_lock<std::mutex>& lock, F&& done) {
    changed_.wait(lock, [&] { return failed_ || done(); });
    if (failed_) throw Error("another rank has failed");
  }

  int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool failed_ = false;
  int arrived_ = 0;
  int64_t round_ = 0;
  std::vector<const void*> posted_;
  std::vector<Letter> letters_;  ///< per sender
};

}  // namespace qnext::testing
