-- Where the servers ask who calls (require_token): a call that shows no token is refused here, as they would, and counts for no limit. Whether a
-- token is a good one they alone know.
local UNAUTHENTICATED = "16"
local NOTHING_SHOWN = "this server asks who calls: send metadata `authorization: Bearer TOKEN`"
local NO_TOKEN = "the token is not known here"

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path") or ""
  if path:sub(1, 4) ~= "/v1/" and path:sub(1, 11) ~= "/fresco.v1." then return end
  local shown = headers:get("authorization")
  if shown and shown:lower():find("^bearer .") then return end
  local message = shown and NO_TOKEN or NOTHING_SHOWN
  if (headers:get("content-type") or ""):sub(1, 16) == "application/grpc" then
    handle:respond({[":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = UNAUTHENTICATED, ["grpc-message"] = message})
  else
    -- google.rpc.Status, which openai.lua makes OpenAI's.
    handle:respond({[":status"] = "401", ["content-type"] = "application/json"},
      string.format('{"code":%s,"message":"%s"}', UNAUTHENTICATED, message))
  end
end
