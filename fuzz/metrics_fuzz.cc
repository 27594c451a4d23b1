// metrics.jsonl, line by line, and the page that is made of what was accepted.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/metrics_log.h"
#include "train/report.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  qnext::Metrics metrics;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    try {
      metrics.add(text.substr(0, end), "metrics.jsonl");
    } catch (const qnext::FileError&) {
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  QNEXT_CHECK(std::ranges::is_sorted(metrics.steps, std::less<>(), [](const auto& step) { return step.report.step; }));
  const std::string page = qnext::report_page(metrics, {.title = "fuzz"});
  QNEXT_CHECK(page.find("</html>") != page.npos);
  return 0;
}
