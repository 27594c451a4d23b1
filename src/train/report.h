#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "train/metrics_log.h"

namespace qnext {

struct ReportOptions {
  std::string title;  ///< name of the run
  bool live = false;  ///< the page reloads itself every reload_seconds, until the run has ended
  int reload_seconds = 5;
};

/// What the page draws: long runs thinned to at most a thousand or so points per curve (means, with the least and the
/// greatest value beside them) and at most 300,000 cells of the experts' heat maps.
nlohmann::json report_data(const Metrics& metrics, const ReportOptions& options);

/// One HTML page that needs nothing else: styles, scripts and data are in it, and a content security policy forbids
/// it to ask for anything. Text of the run is data to it, never markup.
std::string report_page(const Metrics& metrics, const ReportOptions& options);

/// Replaces `path` by `page` in one step, so that a browser never sees half of it. Throws Error.
void write_report(const std::filesystem::path& path, std::string_view page);

}  // namespace qnext
