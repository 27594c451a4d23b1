#include "train/report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"

namespace qnext {

namespace {

constexpr std::string_view kPage =
#include "train/report_page.inc"
    ;
constexpr std::string_view kTitlePlace = "@TITLE@", kDataPlace = "@DATA@";

std::string escaped_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// JSON that can stand in a <script>: nothing in it can end the element or open a comment. Characters beyond ASCII
/// are escaped too, so the page has one encoding whatever the run wrote.
std::string script_json(const nlohmann::json& data) {
  const std::string text = data.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  std::string out;
  out.reserve(text.size() + text.size() / 16);
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "\\u003c";
        break;
      case '>':
        out += "\\u003e";
        break;
      case '&':
        out += "\\u0026";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace

std::string report_page(const Metrics& metrics, const ReportOptions& options) {
  const size_t title = kPage.find(kTitlePlace), data = kPage.find(kDataPlace);
  QNEXT_CHECK(title != kPage.npos && data != kPage.npos && title < data);
  std::string page(kPage.substr(0, title));
  // Through JSON and back, which makes invalid UTF-8 valid.
  const std::string valid =
      nlohmann::json::parse(
          nlohmann::json(options.title).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
          .get<std::string>();
  page += escaped_html(valid);
  page += kPage.substr(title + kTitlePlace.size(), data - title - kTitlePlace.size());
  page += script_json(report_data(metrics, options));
  page += kPage.substr(data + kDataPlace.size());
  return page;
}

void write_report(const std::filesystem::path& path, std::string_view page) {
  std::filesystem::path temporary = path;
  temporary += fmt::format(".{}.tmp", getpid());
  std::error_code error;
  {
    std::ofstream file(temporary, std::ios::binary);
    file.write(page.data(), static_cast<std::streamsize>(page.size()));
    file.close();
    if (!file) {
      const int reason = errno;
      std::filesystem::remove(temporary, error);
      throw Error(fmt::format("{}: cannot write: {}", path.string(), std::strerror(reason)));
    }
  }
  std::filesystem::rename(temporary, path, error);
  if (error) {
    const std::string reason = error.message();
    std::filesystem::remove(temporary, error);
    throw Error(fmt::format("{}: cannot write: {}", path.string(), reason));
  }
}

}  // namespace qnext
