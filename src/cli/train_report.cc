// qnext train report: a run's metrics as one HTML page.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "train/metrics_log.h"
#include "train/report.h"

namespace qnext::cli {
namespace {

constexpr const char* kExamples = R"(
RUN is the output directory of a run (or its metrics.jsonl). The page needs no network and no other file.

Examples:
  qnext train report RUN                     writes RUN/report.html
  qnext train report RUN --out curves.html
  qnext train report RUN --watch             keeps it fresh while the run goes on; the page reloads itself)";

constexpr int kWatchSeconds = 3;

struct ReportCommand {
  std::string run, out;
  bool watch = false;
};

int report(const ReportCommand& command) {
  std::filesystem::path run = command.run;
  const bool is_file = std::filesystem::is_regular_file(run);
  const std::filesystem::path metrics_path = is_file ? run : run / "metrics.jsonl";
  const std::filesystem::path directory = is_file ? std::filesystem::absolute(run).parent_path() : run;
  const std::filesystem::path out =
      command.out.empty() ? directory / "report.html" : std::filesystem::path(command.out);
  std::error_code error;
  std::filesystem::path named = std::filesystem::weakly_canonical(directory, error);
  if (!named.has_filename()) named = named.parent_path();
  MetricsReader reader(metrics_path);
  const ReportOptions options{.title = error ? directory.string() : named.filename().string(),
                              .live = command.watch,
                              .reload_seconds = kWatchSeconds};
  catch_interrupts();
  for (bool first = true;; first = false) {
    const bool changed = reader.update();
    if (first || changed) write_report(out, report_page(reader.metrics(), options));
    if (first) {
      fmt::print("{}\n", std::filesystem::absolute(out).lexically_normal().string());
      std::fflush(stdout);
    }
    if (!command.watch || reader.metrics().end) return 0;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(kWatchSeconds);
    while (std::chrono::steady_clock::now() < until && !interrupted()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    if (interrupted()) {  // the page stays, but no longer reloads itself
      reader.update();
      ReportOptions last = options;
      last.live = false;
      write_report(out, report_page(reader.metrics(), last));
      return 0;
    }
  }
}

}  // namespace

void add_train_report_command(CLI::App& train, Action& action) {
  CLI::App* command = train.add_subcommand("report", "write a run's curves, loads and samples as an HTML page");
  const auto options = std::make_shared<ReportCommand>();
  command->add_option("RUN", options->run, "output directory of a run, or its metrics.jsonl")->required();
  command->add_option("-o,--out", options->out, "the page; default: RUN/report.html")->type_name("FILE");
  command->add_flag("--watch", options->watch, "write it again every few seconds until the run ends");
  command->footer(kExamples);
  command->callback([options, &action] { action = [options] { return report(*options); }; });
}

}  // namespace qnext::cli
