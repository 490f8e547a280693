//! What the orchestration and its activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A trip to be booked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Trip {
    pub traveller: String,
    pub destination: String,
    /// How many nights in the hotel.
    pub nights: u32,
    /// For trying things out: what the flight desk does with the booking.
    #[serde(default)]
    pub flight_desk: FlightDesk,
}

/// How the flight desk behaves.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct FlightDesk {
    /// The first so many requests are answered with 503.
    #[serde(default)]
    pub failures: u32,
    /// The booking is refused for good.
    #[serde(default)]
    pub declined: bool,
}

/// A trip that is booked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Itinerary {
    pub reference: String,
    /// The day of the booking.
    pub booked_on: String,
    pub hotel: Reservation,
    pub flight: Reservation,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HotelRequest {
    pub reference: String,
    pub guest: String,
    pub city: String,
    pub nights: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlightRequest {
    pub reference: String,
    pub passenger: String,
    pub destination: String,
    pub desk: FlightDesk,
}

/// What a desk confirms.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    pub id: String,
}

#[activities(service = "hotel")]
pub trait Hotel {
    /// Reserves a room.
    async fn reserve(&self, ctx: ActivityContext, request: HotelRequest) -> Result<Reservation>;
    /// Gives a room back.
    async fn cancel(&self, ctx: ActivityContext, reservation: Reservation) -> Result<()>;
}

#[activities(service = "flight")]
pub trait Flight {
    /// Reserves a seat.
    async fn reserve(&self, ctx: ActivityContext, request: FlightRequest) -> Result<Reservation>;
}
